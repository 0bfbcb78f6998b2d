"""Take away what deploy.py made: until then the instance costs money."""

import os

import boto3

NAME = os.environ.get("NAME", "headway-example")

sagemaker = boto3.client("sagemaker")

sagemaker.delete_endpoint(EndpointName=NAME)
sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=NAME, WaiterConfig={"Delay": 2, "MaxAttempts": 500})
sagemaker.delete_endpoint_config(EndpointConfigName=NAME)
sagemaker.delete_model(ModelName=NAME)
print(f"{NAME} is gone")
