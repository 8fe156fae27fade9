"""From the text of a request to the tokens of `MoEEModel.encode`."""

from __future__ import annotations

from typing import Any, NoReturn

from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.renderers.chat_utils import ChatTemplateResolutionError
from vllm.renderers.hf import HfRenderer
from vllm.renderers.params import TokenizeParams
from vllm.utils.async_utils import make_async

from moee_hf.model.inference_moee import token_ids
from moee_hf.model.prompts_moee import check_texts, named_by_themselves

from .loading import load_without_weights


class MoEERenderer(HfRenderer):
    """Puts each text into the model's prompt, and cuts a text that is too long at its end, never the prompt.

    Token ids are embedded as they come.
    """

    def __init__(self, config: VllmConfig, tokenizer: Any):
        super().__init__(config, tokenizer)
        self._model = load_without_weights(config.model_config)
        (self._template,) = self._model.config.resolve_prompts()
        if tokenizer is not None:
            self._model.tokenizer = self.tokenizer
            self._model.config.max_length = min(self._model.max_length, config.model_config.max_model_len)
        self._fill_async = make_async(self._fill, executor=self._executor)

    def _tokenize_singleton_prompt(self, prompt: Any, params: TokenizeParams) -> Any:
        return super()._tokenize_singleton_prompt(self._fill(prompt, params), params)

    async def _tokenize_singleton_prompt_async(self, prompt: Any, params: TokenizeParams) -> Any:
        return await super()._tokenize_singleton_prompt_async(await self._fill_async(prompt, params), params)

    def _fill(self, prompt: Any, params: TokenizeParams) -> Any:
        """The prompt of a request with the tokens of its text."""
        if not isinstance(text := prompt.get("prompt"), str) or "prompt_token_ids" in prompt:
            return prompt
        _check_params(params)
        self.get_tokenizer()  # raises if there is none
        try:
            with named_by_themselves([text]):
                (ids,) = token_ids(self._model, check_texts(text), self._template)
        except ValueError as error:
            raise VLLMValidationError(str(error), parameter="input") from error
        return prompt | {"prompt_token_ids": ids}

    def render_messages(self, *_: Any) -> NoReturn:
        """Refuse a conversation.

        Raises:
            ChatTemplateResolutionError: Always; vLLM takes it for a bad request.
        """
        raise ChatTemplateResolutionError(
            "messages: expected texts in `input`, as embeddings are of texts in one prompt; got a conversation."
        )

    async def render_messages_async(self, *_: Any) -> NoReturn:
        """As `render_messages`."""
        self.render_messages()


def _check_params(params: TokenizeParams) -> None:
    """Raise `VLLMValidationError` for what would cut the prompt, or put tokens behind it."""
    fixed = {
        "truncate_prompt_tokens": (params.truncate_prompt_tokens, (None, -1)),
        "truncation_side": (params.truncation_side, (None, "right")),
        "padding": (params.pad_prompt_tokens, (None,)),
        "add_special_tokens": (params.add_special_tokens, (True,)),
    }
    for name, (value, allowed) in fixed.items():
        if value not in allowed:
            raise VLLMValidationError(
                f"{name}: expected {' or '.join(map(repr, allowed))}, as texts are cut at their end so that they fit "
                f"with their prompt; got {value!r}. Leave it out, or start with --max-model-len.",
                parameter=name,
                value=value,
            )
