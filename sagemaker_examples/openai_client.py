"""Talk to an endpoint with the OpenAI client. Needs the endpoint of deploy.py, and `pip install openai`."""

import base64
import os

import boto3
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from openai import OpenAI

NAME = os.environ.get("NAME", "headway-example")

session = boto3.Session()
runtime = session.client("sagemaker-runtime")


def token(expires_s: int = 3600) -> str:
    """A key out of the caller's credentials (IAM: sagemaker:CallWithBearerToken and sagemaker:InvokeEndpoint); 12 hours at most."""
    host = "sagemaker.amazonaws.com"
    request = AWSRequest("POST", f"https://{host}/", headers={"host": host}, params={"Action": "CallWithBearerToken"})
    SigV4QueryAuth(session.get_credentials().get_frozen_credentials(), "sagemaker", session.region_name, expires=expires_s).add_auth(
        request
    )
    url = request.url.removeprefix("https://") + "&Version=1"
    return "sagemaker-api-key-" + base64.b64encode(url.encode()).decode()


client = OpenAI(base_url=f"{runtime.meta.endpoint_url}/endpoints/{NAME}/openai/v1", api_key=token())

whole = client.chat.completions.create(
    model="chat",  # one of SM_VLLM_SERVED_MODEL_NAME, or ""
    messages=[{"role": "user", "content": "Name three fruits."}],
    max_tokens=40,
    temperature=0,
)
print(whole.choices[0].message.content)

stream = client.chat.completions.create(
    model="chat",
    messages=[{"role": "user", "content": "Count from one to five."}],
    max_tokens=40,
    temperature=0,
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
