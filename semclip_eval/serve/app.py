"""The page itself, in Gradio. Nothing here computes: `Desk` answers, `semclip_eval.ask.page` draws."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from semclip_eval.ask.page import STYLE
from semclip_eval.benchmarks.single import PROTOCOLS
from semclip_eval.serve.desk import AUTOMATIC, Desk, Form

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
TITLE = "semclip-eval ask"
LARGEST_UPLOAD = "200mb"
# Only from this server: a page that asks for a font, a script or a counter elsewhere gets none, whatever Gradio adds.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)
HEADERS = ((b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"))
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO_FONTS = ("ui-monospace", "Consolas", "monospace")
# On a phone the answers stand below the form: the button leads there.
SHOW_ANSWERS = """(...fields) => {
  const answers = document.querySelector("#answers");
  if (answers.getBoundingClientRect().top > 0.8 * innerHeight) answers.scrollIntoView({ behavior: "smooth" });
  return fields;
}"""
INTRODUCTION = "Start: tick selectors, drop an image, type a question."


def silence() -> None:
    """Switch Gradio's and the Hub's telemetry off; before either is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def build_page(
    desk: Desk,
    selectors: Sequence[str],
    chosen: Sequence[str],
    headings: Sequence[str],
    examples: Sequence[Sequence[str]] = (),
) -> Any:
    """The page as Gradio's Blocks.

    selectors: all that can be ticked. chosen: those ticked at first. headings: what answers, a
    line each. examples: image file, question, options and boxes each.
    """
    import gradio as gr

    ordered = [*chosen, *(name for name in selectors if name not in chosen)]

    def answer(
        image: str | None, question: str, options: str, protocol: str, boxes: str, names: list[str]
    ) -> Iterator[str]:
        """One question about one image: the answers of the selectors side by side, as HTML."""
        yield from desk.answers(Form(image, question or "", options or "", protocol, boxes or "", names or []))

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in headings)
        gr.HTML(f"<h1>{TITLE}</h1>{lines}", elem_id="heading")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                image = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Image", height=240,
                    elem_id="image",
                )  # fmt: skip
                # The file as it was dropped: `ask` reads it, and says in one line what is wrong with it.
                image.preprocess = lambda payload: None if payload is None else payload.path
                question = gr.Textbox(label="Question", placeholder="What color is the bus?", elem_id="question")
                names = gr.CheckboxGroup(ordered, value=list(chosen), label="Selectors", elem_id="selectors")
                button = gr.Button("Ask", variant="primary", elem_id="ask")
                with gr.Accordion("Options, protocol, boxes", open=bool(examples)):
                    options = gr.Textbox(
                        label="Options, one a line", lines=4, placeholder="red\nblue", elem_id="options"
                    )
                    protocol = gr.Dropdown(
                        [AUTOMATIC, *PROTOCOLS], value=AUTOMATIC, label="Protocol", elem_id="protocol",
                        info="automatic: likelihood with options, short_answer without",
                    )  # fmt: skip
                    boxes = gr.Textbox(
                        label="Boxes of the answer", elem_id="boxes",
                        info="X,Y,WIDTH,HEIGHT in pixels, several with spaces between; for oracle, which sees them",
                    )  # fmt: skip
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(f"<p>{INTRODUCTION}</p>", elem_id="answers", padding=False)
                if examples:
                    gr.Examples(
                        [list(row) for row in examples], [image, question, options, boxes],
                        label="Scenes of the miniature", examples_per_page=len(examples),
                    )  # fmt: skip
        gr.on(
            [button.click, question.submit], answer, [image, question, options, protocol, boxes, names], result,
            api_name="ask", js=SHOW_ANSWERS, show_progress="full", concurrency_limit=1,
        )  # fmt: skip
    return page


class Guarded:
    """ASGI middleware: every answer of `app` with the headers that keep the browser at home."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self._app(scope, receive, send_guarded)


def web_app(page: Any, hosts: Sequence[str], files: Path) -> Any:
    """The page as an ASGI application that loads nothing from outside.

    hosts: the names under which it may be asked for; `*` for any. files: the folder of uploads and examples.
    """
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guarded)
    # A page elsewhere that has its name point to this machine must not reach the server (DNS rebinding).
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    theme = gr.themes.Default(font=list(FONTS), font_mono=list(MONO_FONTS))
    return gr.mount_gradio_app(
        app, page, path="/", theme=theme, css=CSS + STYLE, footer_links=[], run_history=False, ssr_mode=False,
        pwa=False, mcp_server=False, enable_monitoring=False, max_file_size=LARGEST_UPLOAD, show_error=True,
        allowed_paths=[str(files)],
    )  # fmt: skip
