"""Batch transform: a file of requests, one a line, in S3; a file of answers in the same order comes back."""

import json
import os
import time

import boto3

NAME = f"{os.environ.get('NAME', 'headway-example')}-batch-{int(time.time())}"  # a job's name can't be used again
BUCKET = os.environ["BUCKET"]

sagemaker = boto3.client("sagemaker")
s3 = boto3.client("s3")

words = ("sea", "moon", "bread", "violin")
requests = [{"messages": [{"role": "user", "content": f"Explain the word {word}."}], "max_tokens": 20, "temperature": 0} for word in words]
s3.put_object(Bucket=BUCKET, Key=f"{NAME}/in/words.jsonl", Body="\n".join(map(json.dumps, requests)).encode())

sagemaker.create_model(
    ModelName=NAME,
    ExecutionRoleArn=os.environ["ROLE"],
    PrimaryContainer={
        "Image": os.environ["IMAGE"],
        "Environment": {"HF_MODEL_ID": os.environ.get("MODEL", "Qwen/Qwen3-0.6B"), "SM_VLLM_MAX_MODEL_LEN": "2048"},
    },
)
sagemaker.create_transform_job(
    TransformJobName=NAME,
    ModelName=NAME,
    TransformInput={
        "ContentType": "application/jsonlines",
        "SplitType": "Line",
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/{NAME}/in/"}},
    },
    TransformOutput={
        "S3OutputPath": f"s3://{BUCKET}/{NAME}/out",
        "Accept": "application/jsonlines",
        "AssembleWith": "Line",
    },
    BatchStrategy="MultiRecord",  # many lines in one call: the engine computes them side by side
    TransformResources={"InstanceType": os.environ.get("INSTANCE", "ml.g6.xlarge"), "InstanceCount": 1},
)
sagemaker.get_waiter("transform_job_completed_or_stopped").wait(TransformJobName=NAME, WaiterConfig={"Delay": 2, "MaxAttempts": 1000})

output = s3.get_object(Bucket=BUCKET, Key=f"{NAME}/out/words.jsonl.out")["Body"].read().decode()
for word, line in zip(words, output.splitlines(), strict=True):
    print(f"{word}: {json.loads(line)['choices'][0]['message']['content']!r}")
sagemaker.delete_model(ModelName=NAME)
