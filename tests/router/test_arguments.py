"""The command line of the router, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from headway.server.config.fields import Setting, settings_of
from headway.server.errors import ConfigError
from headway.server.router.arguments import read_options
from headway.server.router.config import RouterConfig

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ["--servers", "http://a:8080,http://b:8080"]
PAIRED = ["--policy", "disaggregated", "--prefill-servers", "http://p", "--decode-servers", "http://d"]


def test_what_a_user_types() -> None:
    config = read_options([*SERVERS, "--policy", "prefix", "--max-request-body-bytes", "4M", "--no-access-log"], {})
    assert config.routing.servers == ["http://a:8080", "http://b:8080"]
    assert config.routing.policy == "prefix"
    assert config.routing.max_request_body_bytes == 4 * 1024**2
    assert not config.logs.access_log


def test_the_environment_stands_below_the_command_line() -> None:
    environ = {"HEADWAY_ROUTER_POLICY": "prefix", "HEADWAY_ROUTER_RETRIES": "5", "HEADWAY_ROUTER_SERVERS": "http://c"}
    config = read_options(["--retries", "1"], environ)
    assert (config.routing.policy, config.routing.retries, config.routing.servers) == ("prefix", 1, ["http://c"])


def test_a_service_of_kubernetes_that_is_called_as_the_router_changes_nothing() -> None:
    environ = {
        "HEADWAY_ROUTER_PORT": "tcp://10.0.0.1:80",
        "HEADWAY_ROUTER_SERVICE_HOST": "10.0.0.1",
        "HEADWAY_ROUTER_SERVICE_PORT": "80",
        "HEADWAY_ROUTER_SERVICE_PORT_HTTP": "80",
        "HEADWAY_ROUTER_PORT_80_TCP": "tcp://10.0.0.1:80",
        "HEADWAY_ROUTER_PORT_80_TCP_PORT": "80",
        "HEADWAY_ROUTER_CANARY_PORT": "tcp://10.0.0.2:80",
        "HEADWAY_ROUTER_CANARY_SERVICE_HOST": "10.0.0.2",
    }
    assert read_options(SERVERS, environ).listen.port == 8000


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        ([], {}, "name the servers"),
        (SERVERS, {"HEADWAY_ROUTER_POLCY": "prefix"}, "HEADWAY_ROUTER_POLCY: there is no such option; did you mean HEADWAY_ROUTER_POLICY?"),
        (SERVERS, {"HEADWAY_ROUTER_X": "1"}, "`headway router --help` lists the options"),
        ([*SERVERS, "--polcy", "x"], {}, "--polcy: there is no such option; did you mean --policy?"),
        (["--decode=http://a"], {}, "--decode: there is no such option; did you mean --decode-servers?"),
        (["http://a"], {}, "http://a: this is no option, nor the value of one"),
        (["--servers", "dns://llm"], {}, "--servers: write dns://NAME:PORT; got 'dns://llm'"),
        (["--servers", "dns://llm:80,http://a"], {}, "dns://llm:80 stands for all servers"),
        (["--servers", "kubernetes://llm:99999"], {}, "write kubernetes://SERVICE.NAMESPACE:PORT"),
        (["--servers", "kubernetes://llm.models.svc"], {}, "got 'kubernetes://llm.models.svc'"),
        (["--servers", "ray-actors://a/b"], {}, "write ray-actors://NAMESPACE"),
        ([*SERVERS, "--kubernetes-api", "http://a"], {}, "it must be https://, got 'http://a'"),
        ([*SERVERS, "--prefill-servers", "http://c"], {}, "--prefill-servers is for --policy disaggregated"),
        ([*SERVERS, *PAIRED], {}, "--servers has no place beside --policy disaggregated"),
        (["--policy", "disaggregated", "--decode-servers", "http://c"], {}, "name the servers of both kinds"),
        ([*PAIRED, "--servers-file", "x"], {}, "--decode-servers and --servers-file both name the servers"),
        ([*PAIRED[:-1], "http://p"], {}, "http://p stands in --prefill-servers and in --decode-servers"),
        ([*SERVERS, "--servers-file", "x"], {}, "leave one of them out"),
        (["--servers", "a:8080"], {}, "got 'a:8080'"),
        ([*SERVERS, "--health-path", "ping"], {}, "--health-path must be a path"),
        ([*SERVERS, "--ssl-keyfile", "k"], {}, "--ssl-certfile"),
        (
            SERVERS,
            {"HEADWAY_ROUTER_RETRIES": "many"},
            "environment HEADWAY_ROUTER_RETRIES: expected a whole number from 0 to 10, got 'many'",
        ),
    ],
)
def test_what_cannot_be_used_is_said(argv: list[str], environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_options(argv, environ)
    assert said in str(caught.value)


@pytest.mark.parametrize(("argv", "said"), [(["--port", "99999"], "from 0 to 65535"), (["--policy", "best"], "one of")])
def test_values_that_cannot_be_read_end_with_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_options([*SERVERS, *argv], {})
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_help_tells_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_options(["--help"], {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(setting.flag in shown for setting in settings_of(RouterConfig))


OWN = [setting for setting in settings_of(RouterConfig) if setting.topic in ("routing", "discovery", "upstream", "listen", "logs")]


@pytest.mark.parametrize("setting", OWN, ids=lambda setting: setting.name)
def test_an_option_is_read(setting: Setting) -> None:
    """The topics that the router shares with the server are in tests/config/test_options_are_read.py."""
    rooms = [path.read_text() for path in (ROOT / "server/router").rglob("*.py") if path.stem != "config"]
    assert any(re.search(rf"\b(config|{setting.topic})\.{setting.name}\b", text) for text in rooms)


def test_the_router_imports_no_model_code() -> None:
    code = "import sys, headway.server.router.running; print({'torch', 'fastapi', 'transformers', 'botocore'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
