"""What the Hub makes of a model card: its metadata, and what it refuses in them."""

import re
from typing import Any

import yaml

# https://huggingface.co/docs/hub/repositories-licenses, those of general use
LICENSES = set(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m afl-3.0 artistic-2.0 "
    "bsl-1.0 bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-sa-4.0 cc-by-nc-nd-4.0 epl-2.0 eupl-1.1 agpl-3.0 gpl-3.0 lgpl-3.0 isc mpl-2.0 odc-by odbl postgresql "
    "unlicense zlib llama2 llama3 gemma unknown other".split()
)
# https://huggingface.co/tasks, those of text
TASKS = set(
    "text-classification token-classification question-answering zero-shot-classification translation summarization "
    "feature-extraction text-generation fill-mask sentence-similarity text-ranking".split()
)


def card_errors(content: str) -> list[str]:
    """What the Hub refuses in the metadata of a model card."""
    match = re.match(r"^---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    try:
        card = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return [str(error)]
    errors = []
    if "license" in card and card["license"] not in LICENSES:
        errors.append('"license" must be one of the known identifiers')
    if card.get("license") == "other" and not re.fullmatch(r"[a-z0-9-.]+", card.get("license_name", "unnamed")):
        errors.append('"license_name" must be lower-case letters, digits, - and .')
    if "license_name" in card and not card.get("license_link"):
        errors.append('"license_link" must be the name of a file or a link')
    if "pipeline_tag" in card and card["pipeline_tag"] not in TASKS:
        errors.append('"pipeline_tag" must be a known task')
    if not all(isinstance(tag, str) for tag in card.get("tags", [])):
        errors.append('"tags" must be strings')
    if not isinstance(card.get("library_name", ""), str):
        errors.append('"library_name" must be a string')
    bases = card.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(base)):
            errors.append(f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.')
    if card.get("base_model_relation", "finetune") not in ("finetune", "adapter", "quantized", "merge"):
        errors.append('"base_model_relation" must be one of finetune, adapter, quantized, merge')
    languages = card.get("language", [])
    for language in [languages] if isinstance(languages, str) else languages:
        if not re.fullmatch(r"[a-z]{2,3}|multilingual|code", str(language)):
            errors.append('"language" must be ISO 639 codes')
    for example in card.get("widget", []):
        errors += _widget_errors(example)
    return errors


def _widget_errors(example: dict[str, Any]) -> list[str]:
    # WidgetExample of @huggingface/tasks
    known = {"text", "source_sentence", "sentences", "example_title", "group", "parameters", "output"}
    errors = [f'"widget": unknown key {key}' for key in example.keys() - known]
    if "source_sentence" in example:
        if not all(isinstance(sentence, str) for sentence in example.get("sentences", [None])):
            errors.append('"widget": "sentences" must be strings')
    elif not isinstance(example.get("text"), str):
        errors.append('"widget": expected "text", or "source_sentence" and "sentences"')
    for label in example.get("output", []):
        if set(label) != {"label", "score"} or not isinstance(label["score"], float):
            errors.append('"widget": "output" must be labels with scores')
    return errors


def space_errors(content: str) -> list[str]:
    """What the Hub refuses in the metadata of a Space: https://huggingface.co/docs/hub/spaces-config-reference."""
    card = metadata(content.encode())
    errors = card_errors(content)
    if card.get("sdk") not in ("gradio", "docker", "static"):
        errors.append('"sdk" must be one of gradio, docker, static')
    if card.get("sdk") == "gradio" and not re.fullmatch(r"\d+\.\d+\.\d+", str(card.get("sdk_version"))):
        errors.append('"sdk_version" must be a version of Gradio')
    if not isinstance(card.get("python_version", "3.10"), str):
        errors.append('"python_version" must be a string')
    if len(card.get("short_description", "")) > 60:
        errors.append('"short_description" must be at most 60 characters')
    for name in card.get("models", []):
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
            errors.append(f'"models" with value "{name}" is not valid')
    return errors


def metadata(readme: bytes) -> dict[str, Any]:
    """The metadata at the head of a card; none without a head."""
    match = re.match(rb"^---\n(.*?)\n---", readme, re.DOTALL)
    return yaml.safe_load(match[1]) if match else {}
