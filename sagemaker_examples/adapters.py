"""One base model and a LoRA adapter, each an inference component of one endpoint. Deploys both, asks both, takes them away."""

import json
import os
import time

import boto3

NAME = os.environ.get("NAME", "headway-example") + "-lora"
ADAPTER = os.environ["ADAPTER"]  # s3://BUCKET/adapter.tar.gz with PEFT's adapter_config.json and adapter_model.safetensors
NUM_GPUS = int(os.environ.get("NUM_GPUS", "1"))

sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime")


def wait_for(component: str) -> None:
    """Until an inference component is in service. boto3 has no waiter for it."""
    while (told := sagemaker.describe_inference_component(InferenceComponentName=component))["InferenceComponentStatus"] != "InService":
        if told["InferenceComponentStatus"] == "Failed":
            raise SystemExit(f"{component} failed: {told['FailureReason']}")
        time.sleep(1)


def ask(component: str) -> str:
    body = {"prompt": "The sea is", "max_tokens": 12, "temperature": 0}
    answer = runtime.invoke_endpoint(
        EndpointName=NAME, InferenceComponentName=component, ContentType="application/json", Body=json.dumps(body)
    )
    return json.load(answer["Body"])["choices"][0]["text"]


sagemaker.create_endpoint_config(
    EndpointConfigName=NAME,
    ExecutionRoleArn=os.environ["ROLE"],
    ProductionVariants=[  # no model: what runs here are inference components
        {
            "VariantName": "all",
            "InstanceType": os.environ.get("INSTANCE", "ml.g6.xlarge"),
            "InitialInstanceCount": 1,
            "InferenceAmiVersion": "al2023-ami-sagemaker-inference-gpu-4-1",
            "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        }
    ],
)
sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 2, "MaxAttempts": 1000})

base, adapter = f"{NAME}-base", f"{NAME}-adapter"
sagemaker.create_inference_component(
    InferenceComponentName=base,
    EndpointName=NAME,
    VariantName="all",
    Specification={
        "Container": {
            "Image": os.environ["IMAGE"],
            "Environment": {
                "HF_MODEL_ID": os.environ.get("MODEL", "Qwen/Qwen3-0.6B"),
                "SM_VLLM_MAX_MODEL_LEN": "2048",
                "SM_VLLM_ENABLE_LORA": "true",
                "SM_VLLM_MAX_LORA_RANK": "16",  # the largest rank of all adapters
            },
        },
        "ComputeResourceRequirements": {
            "MinMemoryRequiredInMb": 1024,
            **({"NumberOfAcceleratorDevicesRequired": NUM_GPUS} if NUM_GPUS else {"NumberOfCpuCoresRequired": 2}),
        },
        "StartupParameters": {"ContainerStartupHealthCheckTimeoutInSeconds": 1800},
    },
    RuntimeConfig={"CopyCount": 1},
)
wait_for(base)
sagemaker.create_inference_component(
    InferenceComponentName=adapter,
    EndpointName=NAME,
    Specification={"BaseInferenceComponentName": base, "Container": {"ArtifactUrl": ADAPTER}},
)
wait_for(adapter)
print("the base model: The sea is", ask(base))
print("the adapter:    The sea is", ask(adapter))

for component in (adapter, base):
    sagemaker.delete_inference_component(InferenceComponentName=component)
    try:
        while sagemaker.describe_inference_component(InferenceComponentName=component):
            time.sleep(1)
    except sagemaker.exceptions.ClientError:  # it is gone
        pass
sagemaker.delete_endpoint(EndpointName=NAME)
sagemaker.delete_endpoint_config(EndpointConfigName=NAME)
