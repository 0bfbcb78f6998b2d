// The npm package openai: a conversation with a tool, a structured output, a stream.
const OpenAI = require("openai");

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "unused", maxRetries: 0 });
const settings = { model: "demo", temperature: 0 };
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const person = {
  type: "object",
  properties: { name: { type: "string", maxLength: 20 }, age: { type: "integer", minimum: 0, maximum: 120 } },
  required: ["name", "age"],
  additionalProperties: false,
};

async function main() {
  const messages = [{ role: "user", content: "What is the weather in Paris?" }];
  const required = { ...settings, messages, tools: [weather], tool_choice: "required", max_tokens: 80 };
  const asked = (await client.chat.completions.create(required)).choices[0];
  const call = asked.message.tool_calls[0];
  const result = { role: "tool", tool_call_id: call.id, content: "Sunny, 25 degrees" };
  const told = await client.chat.completions.create({
    ...settings,
    messages: [...messages, asked.message, result],
    tools: [weather],
    max_tokens: 30,
  });
  const structured = await client.chat.completions.create({
    ...settings,
    messages: [{ role: "user", content: "Invent a person." }],
    response_format: { type: "json_schema", json_schema: { name: "person", schema: person, strict: true } },
    max_tokens: 100,
  });
  const question = { ...settings, messages: [{ role: "user", content: "What is the capital of England?" }], max_tokens: 20 };
  const stream = client.chat.completions.stream({ ...question, stream_options: { include_usage: true } });
  let streamed = "";
  stream.on("content", (piece) => (streamed += piece));
  const usage = (await stream.finalChatCompletion()).usage.completion_tokens;
  const calls = client.chat.completions.stream(required);
  const streamedCall = (await calls.finalChatCompletion()).choices[0].message.tool_calls[0].function;
  const response = await client.responses.create({ ...settings, input: "What is the capital of England?", max_output_tokens: 20, store: false });
  const events = client.responses.stream({ ...settings, input: "What is the capital of England?", max_output_tokens: 20, store: false });
  let pieces = "";
  events.on("response.output_text.delta", (event) => (pieces += event.delta));
  const finalResponse = await events.finalResponse();
  console.log(
    JSON.stringify({
      tool: call.function.name,
      arguments: JSON.parse(call.function.arguments),
      finish_reason: asked.finish_reason,
      told: told.choices[0].message.content,
      structured: JSON.parse(structured.choices[0].message.content),
      whole: (await client.chat.completions.create(question)).choices[0].message.content,
      streamed,
      usage,
      streamed_call: [streamedCall.name, streamedCall.arguments],
      called: [call.function.name, call.function.arguments],
      response: response.output_text,
      response_streamed: [pieces, finalResponse.output_text, finalResponse.status],
    }),
  );
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
