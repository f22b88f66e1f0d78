"""S3 on the loopback interface in its own process (bucket_server.py), with client settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI-K7MDENG-bPxRfiCY"


class RunningBucket:
    """The server's process, a client of it, and the environment that featherseg finds it by."""

    def __init__(self, home: Path, fault: str = "") -> None:
        boto3 = pytest.importorskip("boto3")
        pytest.importorskip("moto.server")
        pytest.importorskip("s3fs")
        command = [sys.executable, str(Path(__file__).with_name("bucket_server.py")), fault]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": address,
            "AWS_DEFAULT_REGION": "us-east-1",
            "FEATHERSEG_HOME": str(home),
        }
        secrets = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
        self.client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **secrets)

    def put(self, **objects: bytes) -> None:
        """Into the bucket yard, which is made."""
        self.client.create_bucket(Bucket="yard")
        for key, content in objects.items():
            self.client.put_object(Bucket="yard", Key=key, Body=content)

    def objects(self, folder: str) -> dict[str, bytes]:
        """Name -> content of what lies in a folder of the bucket yard."""
        found = {}
        for name in self.names(folder):
            with self.client.get_object(Bucket="yard", Key=f"{folder}/{name}")["Body"] as body:
                found[name] = body.read()
        return found

    def names(self, folder: str) -> list[str]:
        """What lies in a folder of the bucket yard."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket="yard", Prefix=f"{folder}/"
        )
        return [
            entry["Key"].removeprefix(f"{folder}/")
            for page in pages
            for entry in page.get("Contents", [])
        ]

    def stop(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()

    def start(self, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "featherseg", *map(str, words)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )

    def featherseg(self, *words: object) -> tuple[int, str]:
        """-> (exit code, all that was said, which holds no secret)."""
        process = self.start(*words)
        said = process.communicate(timeout=600)[0]
        assert SECRET not in said
        assert KEY not in said
        return process.returncode, said
