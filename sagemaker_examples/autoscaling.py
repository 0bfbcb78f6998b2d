"""Follow the load: between one and two instances, by the requests that are being answered. Needs the endpoint of deploy.py."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import boto3

NAME = os.environ.get("NAME", "headway-example")
RESOURCE = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": f"endpoint/{NAME}/variant/all",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}

sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime")
scaling = boto3.client("application-autoscaling")

scaling.register_scalable_target(**RESOURCE, MinCapacity=1, MaxCapacity=2)
scaling.put_scaling_policy(
    **RESOURCE,
    PolicyName=f"{NAME}-concurrency",
    PolicyType="TargetTrackingScaling",
    TargetTrackingScalingPolicyConfiguration={
        # Requests in flight, every 10 s. A language model is busy with few long requests: their number a minute tells little.
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"},
        "TargetValue": 4,
        "ScaleOutCooldown": 60,
        "ScaleInCooldown": 300,
    },
)


def num_instances() -> tuple[int, int]:
    """(running, wanted)"""
    variant = sagemaker.describe_endpoint(EndpointName=NAME)["ProductionVariants"][0]
    return variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]


def ask(number: int) -> None:
    body = {"prompt": f"Chapter {number}.", "max_tokens": 64, "ignore_eos": True}
    runtime.invoke_endpoint(EndpointName=NAME, ContentType="application/json", Body=json.dumps(body))["Body"].read()


print("instances (running, wanted):", num_instances())
deadline = time.monotonic() + 1800
with ThreadPoolExecutor(16) as pool:
    while num_instances() != (2, 2):
        if time.monotonic() > deadline:
            raise SystemExit("it has not scaled out in half an hour: look at describe_scaling_activities")
        list(pool.map(ask, range(16)))
print("instances (running, wanted):", num_instances())
for activity in scaling.describe_scaling_activities(ServiceNamespace="sagemaker", ResourceId=RESOURCE["ResourceId"])["ScalingActivities"]:
    print(activity["Description"])
scaling.deregister_scalable_target(**RESOURCE)
