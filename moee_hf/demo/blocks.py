"""The page, as blocks of Gradio: what is typed, what is pressed, where answers go."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..figures.page import variables
from ..search import Index, open_index
from . import shown
from .answers import Answers

if TYPE_CHECKING:
    from gradio import Blocks

    from ..model.modeling_moee import MoEEModel

# pairs of texts to begin with: alike in meaning, in words alone, in another way, not at all
PAIRS = (
    ("A cat is sleeping on the sofa.", "The kitten naps on the couch."),
    ("The bank raises its interest rates.", "They had a picnic on the bank of the river."),
    ("How do I reset my password?", "I cannot log in to my account any more."),
    ("She plays the violin in an orchestra.", "Stock prices fell sharply on Monday."),
)
QUERIES = ("an animal at rest", "trouble with a computer", "somebody performs music")
# visitors who wait at the same time; more are told to come back
MOST_WAITING = 64


def create_demo(model: MoEEModel, corpus: Index | None = None, prompt: str | None = None) -> Blocks:
    """Return a page on which a visitor compares texts, searches a corpus, and sees the routing of a text.

    `.launch()` shows it in a notebook; `create_app` makes a server of it.

    Args:
        model: The model; nothing else may change it meanwhile.
        corpus: Where to search, as `open_index` returns it. None: some sixty sentences that come with the package.
        prompt: A name, several with `+` between them, or a template with `{text}`. None: the model's.

    Raises:
        ImportError: If Gradio is not installed.
        ValueError: If there is no such prompt.
        OSError: If the embeddings of the corpus cannot be kept.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The demo needs Gradio: pip install "moee_hf[demo]".') from error
    answers = Answers(model, prompt)
    index = open_small_corpus(model, prompt) if corpus is None else corpus
    with gradio.Blocks(title="MoEE", analytics_enabled=False) as demo:
        _add_functions(answers, index)  # before events, which Gradio names after their functions, too
        gradio.HTML(_head(model), apply_default_css=False)
        with gradio.Tab("Compare", elem_id="compare-tab"):
            _compare_tab(answers)
        with gradio.Tab("Search", elem_id="search-tab"):
            _search_tab(answers, index)
        with gradio.Tab("Routing", elem_id="routing-tab"):
            _routing_tab(answers)
    # one question at a time, also of programs: nothing passes by the queue
    demo.queue(max_size=MOST_WAITING, api_open=False, default_concurrency_limit=1)
    return demo


def open_small_corpus(model: MoEEModel, prompt: str | None = None) -> Index:
    """Return an index of the sentences that come with the package; arguments and errors are those of `open_index`."""
    with resources.as_file(resources.files(__package__).joinpath("corpus.txt")) as path:
        return open_index(model, str(path), prompt=prompt, show_progress_bar=False)


def _head(model: MoEEModel) -> str:
    """The style of all answers, and what this is."""
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    layers, experts = model.config.router_shape
    name = html.escape(str(model.config.get_text_config().model_type))
    return (
        f"<style>.moee {{ {variables('light')} }}\n.dark .moee {{ {variables('dark')} }}\n{style}</style>"
        '<div class="moee"><h1>Mixture-of-experts embeddings</h1><p>A language model reads a text; what it holds in '
        "mind at the end, its hidden state (HS), and which experts its routers "
        f"chose, the routing weights (RW), are the text's embedding. This model ({name}) has {layers} MoE layers of "
        f"{experts} experts.</p></div>"
    )


def _compare_tab(answers: Answers) -> None:
    import gradio

    with gradio.Row():
        first, second = (
            gradio.Textbox(text, label=f"Text {number}", max_lines=8, min_width=280, elem_id=f"text-{number}")
            for number, text in enumerate(PAIRS[0], 1)
        )
    button = gradio.Button("Compare", variant="primary", elem_id="compare")
    examples = _examples(PAIRS, [first, second])
    answer = gradio.HTML(elem_id="explanation", apply_default_css=False)

    def compare(first: str, second: str) -> str:
        return shown.explanation(answers.compare(first, second))

    _on([button.click, first.submit, second.submit, *examples], compare, [first, second], answer)


def _search_tab(answers: Answers, index: Index) -> None:
    import gradio

    query = gradio.Textbox(QUERIES[0], label=f"Query, in {len(index):,} texts", max_lines=8, elem_id="query")
    button = gradio.Button("Search", variant="primary", elem_id="search")
    examples = _examples([(text,) for text in QUERIES], [query])
    answer = gradio.HTML(elem_id="hits", apply_default_css=False)

    def search(query: str) -> str:
        answers.check_query(query, index.templates)
        return shown.hits(index.search([query])[0])

    _on([button.click, query.submit, *examples], search, [query], answer)


def _routing_tab(answers: Answers) -> None:
    import gradio

    text = gradio.Textbox(PAIRS[0][0], label="Text", max_lines=8, elem_id="text")
    button = gradio.Button("Show the routing", variant="primary", elem_id="route")
    answer = gradio.HTML(elem_id="routing", apply_default_css=False)

    def route(text: str) -> str:
        return shown.routing(answers.route(text))

    _on([button.click, text.submit], route, [text], answer)


def _examples(rows: Any, boxes: list[Any]) -> list[Callable[..., Any]]:
    """A button for each example, which a keyboard reaches, too; return what happens once the boxes are filled."""
    import gradio

    filled: list[Callable[..., Any]] = []
    with gradio.Row():
        for row in rows:
            values = list(row) if len(row) > 1 else row[0]
            button = gradio.Button(" / ".join(row), size="sm", min_width=200)
            event = button.click(lambda values=values: values, None, boxes, api_visibility="private", queue=False)
            filled.append(event.then)
    return filled


def _on(events: list[Callable[..., Any]], function: Callable[..., str], inputs: list[Any], output: Any) -> None:
    """Let each of the events show what a function says; its errors are sentences on the page."""
    for event in events:
        event(_in_sentences(function), inputs, output, api_visibility="private", concurrency_id="model")


def _in_sentences(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose errors, but for faults of the program, are shown on the page."""
    import gradio

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ValueError, TypeError, OSError) as error:
            # Gradio shows it as HTML
            raise gradio.Error(html.escape(str(error), quote=False), print_exception=False) from None

    return call


def _add_functions(answers: Answers, index: Index) -> None:
    """What programs may ask, such as `gradio_client`."""
    from gradio.events import api

    def compare(first: str, second: str) -> dict[str, Any]:
        """Split the similarity of two texts; keys are those of `moee explain --output x.json`."""
        return answers.compare(first, second).to_dict()

    def search(query: str) -> list[dict[str, Any]]:
        """Return the ten texts that are most like a query."""
        answers.check_query(query, index.templates)
        return [vars(hit) for hit in index.search([query])[0]]

    def route(text: str) -> dict[str, Any]:
        """Return the experts that each token of a text chooses in each MoE layer of RW."""
        found = answers.route(text)
        return {"layers": found.layers, "tokens": found.chosen.to_list()}

    for function in (compare, search, route):
        api(_in_sentences(function), api_name=function.__name__, concurrency_id="model")
