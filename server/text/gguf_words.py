"""How byte-level vocabularies split a text before merging: what `tokenizer.ggml.pre` of a GGUF file stands for. Names and what they share
are llama.cpp's, patterns those of the models' own tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True, slots=True)
class WordRules:
    """``patterns`` split one after the other; then each piece is spelled in byte letters, split as GPT-2 does before if it ``is_gpt2``.

    ``is_composed``: the text is put in Unicode's form NFC first. ``takes_whole_words``: a word that is a token is not merged anew.
    ``has_bos``: a file that does not say whether texts begin with a BOS means that they do."""

    patterns: tuple[str, ...] = ()
    is_gpt2: bool = False
    is_composed: bool = False
    takes_whole_words: bool = False
    has_bos: bool = False

    def apply_to(self, backend: tokenizers.Tokenizer) -> None:
        """Sets what goes before the vocabulary."""
        from tokenizers import Regex, normalizers, pre_tokenizers

        steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.is_gpt2))
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
        if self.is_composed:
            backend.normalizer = normalizers.NFC()


def word_rules(name: str) -> WordRules | None:
    """None for a name that is not known."""
    return _RULES.get(name)


_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = _ENDINGS + _LETTERS + r"|\p{N}{1,3}" + _REST
_QWEN2 = _ENDINGS + _LETTERS + r"|\p{N}" + _REST


def _cased(endings: str, digits: str, rest: str = _REST.replace(r"[\r\n]*", r"[\r\n/]*", 1), but: str = "") -> str:
    """Words that go from large letters to small ones. ``but``: letters that are in none."""
    start, upper, lower = (
        r"[^\r\n\p{L}\p{N}]?",
        rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]",
        rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]",
    )
    return f"{start}{upper}*{lower}+{endings}|{start}{upper}+{lower}*{endings}|{digits}{rest}"


# Letters that have a case, as DeepSeek-LLM's tokenizer lists them: not all that Unicode has today.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
    "\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
    "\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184"
    "\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_LLM = (
    "[\r\n]",
    rf"\s?[{_CASED_LETTERS}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _CJK,
    r"\p{N}+",
)
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)

_KIMI = r"[\p{Han}]+|" + _cased(f"{_ENDINGS}?", r"\p{N}{1,3}", _REST, r"&&[^\p{Han}]")

_OF_LLAMA3 = WordRules((_LLAMA3,), takes_whole_words=True, has_bos=True)
_OF_GPT4O = WordRules((_cased(f"{_ENDINGS}?", r"\p{N}{1,3}"),))
_OF_GPT2 = WordRules(is_gpt2=True)
_BY_DIGIT = WordRules((r"\p{N}",), is_gpt2=True)
_RULES = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _OF_LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), WordRules((_LLAMA3,))),
    "qwen2": WordRules((_QWEN2,), is_composed=True),
    **dict.fromkeys(("deepseek-r1-qwen", "stablelm2", "hunyuan", "grok-2", "kormo", "f2llmv2", "megrez"), WordRules((_QWEN2,))),
    "tekken": WordRules((_cased("", r"\p{N}"),), takes_whole_words=True, has_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _OF_GPT4O),
    "deepseek-llm": WordRules(_DEEPSEEK_LLM),
    "deepseek-coder": WordRules(_DEEPSEEK_CODER),
    "kimi-k2": WordRules((_KIMI,)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), WordRules(_DEEPSEEK_V3)),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum"), _OF_GPT2),
    **dict.fromkeys(("starcoder", "refact", "codeshell", "exaone", "minerva-7b"), _BY_DIGIT),
    "command-r": WordRules((r"\p{N}",), is_gpt2=True, is_composed=True),
    # llama.cpp and the model's original tokenizer.json split digits off first. transformers' GGUF reader does not, and it is what our
    # output is held against token for token; they differ where several blanks stand before a digit.
    "smollm": _OF_GPT2,
}
