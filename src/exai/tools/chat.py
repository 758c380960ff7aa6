"""The `chat` tool: one prompt to one model, its answer streamed as it comes.

A call may continue a conversation. Its turns are kept raw; which of them a model is told
again is `conversation_window`'s concern.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from exai.core.clock import Clock
from exai.core.config import ConversationsConfig
from exai.core.conversation_store import (
    Conversation,
    ConversationBounds,
    ConversationStore,
    Turn,
)
from exai.core.errors import ArgumentsInvalid, NotConfigured, ProviderFailed
from exai.core.identity import Principal
from exai.core.outcomes import Completed, ExecutionFacts, text_block, text_of
from exai.core.tool import Demand, SharingPolicy, ToolRun, ToolSpec, provider_scope
from exai.providers.provider import ChatReply, ChatRequest, Message, Provider
from exai.providers.registry import AUTO, ProviderRegistry
from exai.tools.conversation_window import fewer_turns, history_budget, messages_of, newest_turns
from exai.tools.own_tool import OwnTool

_MAX_PROMPT_LENGTH = 4_000_000  # some million tokens: more than any model reads

_INPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "prompt": {
            "type": "string",
            "minLength": 1,
            "maxLength": _MAX_PROMPT_LENGTH,
            "description": "What to ask the model.",
        },
        "model": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "default": AUTO,
            "description": (
                "Which model to ask; `listmodels` lists them. Without it a conversation goes "
                "on with the model it was begun with; another one answers this call only."
            ),
        },
        "system_prompt": {
            "type": "string",
            "maxLength": _MAX_PROMPT_LENGTH,
            "description": (
                "How the model is to behave: its role, its tone, its limits. Without it a "
                "conversation goes on with the one it was begun with; another one holds for "
                "this call only."
            ),
        },
        "temperature": {
            "type": "number",
            "minimum": 0,
            "maximum": 2,
            "description": "0 for the likeliest words, more for surprising ones.",
        },
        "continuation_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "description": (
                "Which conversation to continue: the `continuation_id` of an earlier answer. "
                "Without it a new one begins."
            ),
        },
    },
    "required": ["prompt"],
    "additionalProperties": False,
}
_OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "provider": {"type": "string", "description": "Which service answered."},
        "model": {"type": "string", "description": "Which model really answered."},
        "finish_reason": {
            "type": "string",
            "description": "`stop`: the answer is complete; `length`: it was cut off.",
        },
        "continuation_id": {
            "type": "string",
            "description": "Names the conversation; give it to the next call to continue.",
        },
        "turns_told": {
            "type": "integer",
            "minimum": 0,
            "description": (
                "How many earlier turns of the conversation the model was told: the newest, "
                "as many as it has room for."
            ),
        },
    },
    "required": ["provider", "model", "finish_reason"],
}


class ChatTool(OwnTool):
    """Asks a model.

    Asking again changes nothing but the bill, and after a crash that one repetition is what
    brings the answer; a turn is kept once however often its call runs. So the tool counts
    as idempotent.
    """

    spec = ToolSpec(
        name="chat",
        title="Chat with a model",
        description=(
            "Asks a language model and returns its answer as text. The model knows only what "
            "the prompt says and, with `continuation_id`, the conversation so far."
        ),
        input_schema=_INPUT_SCHEMA,
        output_schema=_OUTPUT_SCHEMA,
        annotations={"readOnlyHint": True, "openWorldHint": True},
        policy=SharingPolicy(share="principal", idempotent=True, read_only=True),
    )

    def __init__(
        self,
        providers: ProviderRegistry,
        conversations: ConversationStore,
        config: ConversationsConfig,
        clock: Clock,
    ) -> None:
        super().__init__()
        self._providers = providers
        self._conversations = conversations
        self._history_max_tokens = config.history_max_tokens
        self._bounds = ConversationBounds(
            config.max_bytes, config.principal_max_count, config.principal_max_bytes
        )
        self._clock = clock

    async def demand_of(self, arguments: dict[str, Any], principal: Principal) -> Demand:
        """Ask for a permit of the model's provider, and for the conversation that goes on."""
        conversation = await self._find_conversation(arguments, principal)
        provider, _ = self._resolve(arguments, conversation)
        if conversation is None:
            return Demand(provider_scope(provider.name))
        # Unambiguous: a conversation's id is a call's, and has no slash.
        claim = f"{principal.name}/{conversation.conversation_id}"
        return Demand(provider_scope(provider.name), claim)

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Ask, stream, keep the turn of a conversation that goes on, return the whole answer."""
        conversation = await self._find_conversation(arguments, run.principal)
        provider, model = self._resolve(arguments, conversation)
        if conversation is None:
            system_prompt = arguments.get("system_prompt")
            messages = messages_of(system_prompt, (), arguments["prompt"])
            reply = await provider.complete(_request(model, messages, arguments), run)
            return _completed(provider, reply)
        reply, turns_told = await self._continue(conversation, provider, model, arguments, run)
        turn = Turn(run.call_id, arguments["prompt"], reply.text, self._clock.wall_s())
        await self._keep(conversation, turn)
        return _completed(provider, reply, turns_told=turns_told)

    async def hand_out(
        self, completed: Completed, arguments: dict[str, Any], principal: Principal, call_id: str
    ) -> Completed:
        """Name the conversation; a new one begins for each caller of an answer."""
        continuation_id = arguments.get("continuation_id")
        if continuation_id is None:
            continuation_id = call_id
            turn = Turn(
                call_id, arguments["prompt"], text_of(completed.outputs), self._clock.wall_s()
            )
            begun = Conversation(
                call_id,
                principal.name,
                (turn,),
                arguments.get("system_prompt"),
                self._model_to_remember(arguments.get("model")),
            )
            await self._conversations.begin(begun, self._bounds)
        structured = {**(completed.structured or {}), "continuation_id": continuation_id}
        return msgspec.structs.replace(completed, structured=structured)

    async def _find_conversation(
        self, arguments: dict[str, Any], principal: Principal
    ) -> Conversation | None:
        """Return the conversation that a call continues; None where it begins one."""
        continuation_id = arguments.get("continuation_id")
        if continuation_id is None:
            return None
        found = await self._conversations.find(principal.name, continuation_id)
        if found is None:
            raise ArgumentsInvalid(
                "this conversation is unknown or has expired; leave continuation_id out to "
                "begin a new one",
                path="/continuation_id",
            )
        return found

    def _resolve(
        self, arguments: dict[str, Any], conversation: Conversation | None
    ) -> tuple[Provider, str]:
        asked = arguments.get("model")
        if asked is not None or conversation is None:
            return self._providers.resolve(asked)
        try:
            return self._providers.resolve(conversation.model)
        except ArgumentsInvalid as gone:
            raise ArgumentsInvalid(
                f"the conversation's own model is gone ({gone}); name another", path="/model"
            ) from gone

    def _model_to_remember(self, asked: str | None) -> str:
        """Return a name that leads to the same model as long as it is configured."""
        if asked is not None and asked != AUTO:
            return asked
        provider, name = self._providers.resolve(asked)
        with suppress(ArgumentsInvalid, NotConfigured):
            if self._providers.resolve(name) == (provider, name):
                return name
        return f"{provider.name}/{name}"

    async def _continue(
        self,
        conversation: Conversation,
        provider: Provider,
        model: str,
        arguments: dict[str, Any],
        run: ToolRun,
    ) -> tuple[ChatReply, int]:
        """Return the reply to a conversation's next prompt, and how many turns were told.

        Where the service finds them too long, since we can only estimate, it is told fewer.
        """
        system_prompt = arguments.get("system_prompt", conversation.system_prompt)
        prompt = arguments["prompt"]

        def asked(turns: Sequence[Turn]) -> ChatRequest:
            return _request(model, messages_of(system_prompt, turns, prompt), arguments)

        budget_tokens = history_budget(
            provider.context_tokens, self._history_max_tokens, system_prompt, prompt
        )
        # A call that runs again after it kept its turn is not told its own answer.
        earlier = [turn for turn in conversation.turns if turn.call_id != run.call_id]
        turns = newest_turns(earlier, budget_tokens)
        try:
            return await provider.complete(asked(turns), run), len(turns)
        except ProviderFailed as failure:
            if not turns or not _may_be_too_long(failure):
                raise
        turns = fewer_turns(turns)
        run.report(f"too long for {provider.name}; telling {len(turns)} turns", level="warning")
        run.begin_attempt()
        reply = await provider.complete(asked(turns), run)
        return msgspec.structs.replace(reply, attempts=reply.attempts + 1), len(turns)

    async def _keep(self, conversation: Conversation, turn: Turn) -> None:
        """Add a turn; a conversation that was forgotten while the model spoke is begun again."""
        owner, conversation_id = conversation.principal, conversation.conversation_id
        if not await self._conversations.append(owner, conversation_id, turn, self._bounds):
            whole = msgspec.structs.replace(conversation, turns=(*conversation.turns, turn))
            await self._conversations.begin(whole, self._bounds)


def _may_be_too_long(failure: ProviderFailed) -> bool:
    return (failure.describe().details or {}).get("status") in (400, 413)


def _request(model: str, messages: tuple[Message, ...], arguments: dict[str, Any]) -> ChatRequest:
    return ChatRequest(model=model, messages=messages, temperature=arguments.get("temperature"))


def _completed(provider: Provider, reply: ChatReply, **more: int) -> Completed:
    return Completed(
        [text_block(reply.text)],
        structured={
            "provider": provider.name,
            "model": reply.model,
            "finish_reason": reply.finish_reason,
            **more,
        },
        facts=ExecutionFacts(reply.attempts, provider.name, reply.model, reply.usage),
    )
