"""Deploy a model to an endpoint, wait until it is in service, and ask it something."""

import json
import os

import boto3

NAME = os.environ.get("NAME", "headway-example")
MODEL = os.environ.get("MODEL", "Qwen/Qwen3-0.6B")  # of the Hugging Face Hub
INSTANCE = os.environ.get("INSTANCE", "ml.g6.xlarge")

sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime")

sagemaker.create_model(
    ModelName=NAME,
    ExecutionRoleArn=os.environ["ROLE"],
    PrimaryContainer={
        "Image": os.environ["IMAGE"],  # `headway push` prints it
        "Environment": {
            "HF_MODEL_ID": MODEL,
            "SM_VLLM_MAX_MODEL_LEN": "2048",
            "SM_VLLM_SERVED_MODEL_NAME": json.dumps(["chat", NAME]),  # what clients may call it
            "SAGEMAKER_ENABLE_STATEFUL_SESSIONS": "true",  # for sessions.py
        },
    },
)
sagemaker.create_endpoint_config(
    EndpointConfigName=NAME,
    ProductionVariants=[
        {
            "VariantName": "all",
            "ModelName": NAME,
            "InstanceType": INSTANCE,
            "InitialInstanceCount": 1,
            "InferenceAmiVersion": "al2023-ami-sagemaker-inference-gpu-4-1",  # the driver that the CUDA image needs
            "ContainerStartupHealthCheckTimeoutInSeconds": 1800,  # 8 minutes otherwise, the model's download included
            "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        }
    ],
)
sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
print(f"{NAME} is being created: the log is in CloudWatch, /aws/sagemaker/Endpoints/{NAME}")
# Raises WaiterError if it fails; describe_endpoint has the reason.
sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 2, "MaxAttempts": 1000})
print(f"{NAME} is in service")

answer = runtime.invoke_endpoint(
    EndpointName=NAME,
    ContentType="application/json",
    Body=json.dumps({"messages": [{"role": "user", "content": "What is the capital of England?"}], "max_tokens": 40, "temperature": 0}),
)
whole = json.load(answer["Body"])
print(whole["choices"][0]["message"]["content"])
print(whole["usage"])
