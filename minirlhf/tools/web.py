"""A page in the browser for who does not live in terminals: label, chat, look at a run.

    minirlhf web                              the runs in out/; labels on samples of its SFT model
    minirlhf web --data responses.jsonl       labels on the responses of a file
    minirlhf web --runs out/mine --out mine.jsonl --data prompts.jsonl --policy out/mine/sft

It prints the address to open, http://127.0.0.1:7860. The page is for this machine alone and asks
for nothing outside it. For a machine elsewhere: `ssh -L 7860:127.0.0.1:7860 HOST`, and the same
address here. Ctrl-C ends it; every answer is in the file --out by then.

Label: the questions, the keys and the file of `minirlhf label`, whose flags hold here as well; what
was begun in the terminal goes on here. Chat: one or two checkpoints, as `minirlhf chat`. Run: the
curves and samples of a run, also while it goes on.
"""

import dataclasses
import os
import socket
import threading
from dataclasses import dataclass

from minirlhf.formats import labels
from minirlhf.run import config
from minirlhf.run.config import InputError, flag
from minirlhf.tools import desk, label, tabs

HOST = "127.0.0.1"
# A browser that obeys this asks no other machine, whatever came into the page.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'none'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Config(label.QuestionFlags):
    """A page in the browser, on this machine alone: label, chat, look at a run."""

    runs: str = flag("out", "folder with the runs and checkpoints that the page shows")
    port: int = flag(7860, "port of the page's address", low=1, high=65535)


def main(argv=None):
    args = config.parse(Config, argv)
    check(args)
    if not (args.policy or args.data):
        args = dataclasses.replace(args, policy=desk.sampled_policy(args.runs))
    gradio = load_gradio()
    server = serve(gradio, tabs.build(gradio, args), args.port)
    print(f"open http://{HOST}:{args.port} in a browser; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print(f"\nclosed; the answers are in {args.out}")
    finally:
        server.close(verbose=False)


def check(args):
    """InputError for what could not work on the page, before the page is there."""
    label.check_out(args)
    labels.read_labels(args.out)
    if args.data:
        os.stat(args.data)
    elif not desk.runs(args.runs):
        remedy = "train one (minirlhf demo), name another folder, or give responses with --data"
        raise InputError(f"--runs {args.runs}: there is no run in this folder; {remedy}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, args.port))
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
            raise InputError(f"--port {args.port}: {problem}; choose another --port") from error


def load_gradio():
    """The library of the page, told to keep to itself."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST]))
    try:
        import gradio
    except ImportError as error:
        raise InputError("the page needs Gradio: pip install -e '.[web]'") from error
    return gradio


def serve(gradio, page, port):
    """Start the server in a thread of its own."""
    from starlette.middleware import Middleware  # Gradio stands on it
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    font, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        footer_links=[],
        theme=gradio.themes.Default(primary_hue="blue", font=font, font_mono=mono),
        css=tabs.CSS,
        js=tabs.KEYS,
        app_kwargs={"middleware": [hosts, Middleware(Guard)]},
    )
    return page


class Guard:
    """Adds POLICY to every answer of the server."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def guarded(message):
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        await self.app(scope, receive, guarded)


if __name__ == "__main__":
    config.run(main)
