"""Deployments for `headway render`, made as its command line makes them."""

from __future__ import annotations

from headway.container.render.arguments import parser
from headway.container.render.deployment import Deployment
from headway.container.render.reading import read_deployment

IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/headway:1.0"
ROLE = "arn:aws:iam::123456789012:role/serving"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:done"
BASIC = ("--image", IMAGE, "--instance", "ml.g6.xlarge", "-e", "SM_VLLM_MODEL=demo")

# What one could ask for on SageMaker: each has what no other has.
CASES: dict[str, tuple[str, ...]] = {
    "basic": BASIC,
    "role": (*BASIC, "--role", ROLE),
    "no iam": (*BASIC, "--no-iam"),
    "model data, scaled": (
        *("--image", IMAGE, "--instance", "ml.g6.12xlarge", "--model-data", "s3://models/chat/", "--max-copies", "4"),
        *("--tag", "team=chat", "--tag", "cost=", "-e", "HF_TOKEN=ssm:/hub/token", "-e", "SM_VLLM_MAX_NUM_SEQS=100"),
    ),
    "archive on a CPU": (
        *("--image", IMAGE, "--instance", "ml.c6i.4xlarge", "--model-data", "s3://models/chat.tar.gz"),
        *("--kms-key", KEY, "--volume-size", "100"),
    ),
    "adapters": (*BASIC, "--adapter", "sql=s3://adapters/sql.tar.gz", "--adapter", "fr=s3://adapters/fr.tar.gz", "--max-copies", "3"),
    "asynchronous": (
        *(*BASIC, "--async-output", "s3://answers/out", "--async-failure", "s3://answers/failed", "--async-input", "s3://requests/in"),
        *("--success-topic", TOPIC, "--error-topic", TOPIC, "--max-copies", "2", "--kms-key", KEY),
    ),
    "words": (*BASIC, "--", "serve", "demo", "--max-model-len", "4k"),
}


def deployment(*words: str, target: str = "boto3", environ: dict[str, str] | None = None) -> Deployment:
    given = parser((target,), (target,)).parse_intermixed_args([target, *words])
    return read_deployment(given, environ or {}, on_sagemaker=target in ("boto3", "terraform", "cloudformation"))[0]
