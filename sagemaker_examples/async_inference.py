"""Asynchronous inference: the request and the answer lie in S3, and it may take up to an hour. Deploys an endpoint, and takes it away."""

import json
import os
import time

import boto3
from botocore.exceptions import ClientError

NAME = os.environ.get("NAME", "headway-example") + "-async"
BUCKET = os.environ["BUCKET"]

sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime")
s3 = boto3.client("s3")

sagemaker.create_model(
    ModelName=NAME,
    ExecutionRoleArn=os.environ["ROLE"],
    PrimaryContainer={
        "Image": os.environ["IMAGE"],
        "Environment": {"HF_MODEL_ID": os.environ.get("MODEL", "Qwen/Qwen3-0.6B"), "SM_VLLM_MAX_MODEL_LEN": "2048"},
    },
)
sagemaker.create_endpoint_config(
    EndpointConfigName=NAME,
    ProductionVariants=[
        {
            "VariantName": "all",
            "ModelName": NAME,
            "InstanceType": os.environ.get("INSTANCE", "ml.g6.xlarge"),
            "InitialInstanceCount": 1,
            "InferenceAmiVersion": "al2023-ami-sagemaker-inference-gpu-4-1",
            "ContainerStartupHealthCheckTimeoutInSeconds": 1800,
        }
    ],
    AsyncInferenceConfig={
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 32},  # the engine computes them side by side
        "OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/answers", "S3FailurePath": f"s3://{BUCKET}/failures"},
    },
)
sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 2, "MaxAttempts": 1000})


def wait_for(location: str, failure: str) -> bytes:
    """The answer, once it is there. Ends the script with the failure if that comes instead."""
    while True:
        for place in (location, failure):
            bucket, _, key = place.removeprefix("s3://").partition("/")
            try:
                content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                    raise
            else:
                if place == failure:
                    raise SystemExit(f"it failed: {content.decode()}")
                return content
        time.sleep(1)


body = {"messages": [{"role": "user", "content": "Write a haiku about rain."}], "max_tokens": 40, "temperature": 0}
s3.put_object(Bucket=BUCKET, Key="questions/haiku.json", Body=json.dumps(body).encode())
accepted = runtime.invoke_endpoint_async(
    EndpointName=NAME,
    InputLocation=f"s3://{BUCKET}/questions/haiku.json",
    ContentType="application/json",
    InvocationTimeoutSeconds=3600,
)
print(f"the answer will be in {accepted['OutputLocation']}")
answer = json.loads(wait_for(accepted["OutputLocation"], accepted["FailureLocation"]))
print(answer["choices"][0]["message"]["content"])

sagemaker.delete_endpoint(EndpointName=NAME)
sagemaker.delete_endpoint_config(EndpointConfigName=NAME)
sagemaker.delete_model(ModelName=NAME)
