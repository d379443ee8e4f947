"""Masks secrets in texts, such as passwords and tokens in URLs, before anybody reads them."""

from __future__ import annotations

import re
from itertools import pairwise
from urllib.parse import unquote

from pipert_shm.display.patterns import Pattern

MASK = "***"
LONGEST_WORD = 4096  # characters that are looked at of a word that a cut tears

_LAST_WORD = Pattern(r"(?<!\S)\S+\Z")
_FIRST_WORD = Pattern(r"\A\S+")
_MAY_HOLD_A_SECRET = Pattern(r"[:=@%]|eyJ")

# A user is told where that is no secret itself: a short word, with a password. Tokens stand before an empty or made-up one.
_USER = Pattern(r"([A-Za-z]{1,8}:)(?!$|x$|x-oauth-basic$)")

_I = re.IGNORECASE
# A URL within another one is encoded, any number of times.
_COLON, _SLASH, _AT = "(?:%(?:25)*3a|:)", "(?:%(?:25)*2f|/)", "(?:%(?:25)*40|[@\\uff20])"
_SEPARATOR = Pattern(f"({_COLON}{_SLASH}{{2}})", _I)
# An address ends at a blank, or at a quotation mark that nothing of it follows.
_RUN = Pattern(r"""(?:[^\s"']|["'](?![\s,:;)\]}]|$))*""")
_LAST_AT = Pattern(f".*({_AT})", _I | re.DOTALL)
_AUTHORITY = Pattern(r"(?:(?!%(?:25)*(?:2f|3f|23))[^/?#])*", _I)
_HOST = Pattern(rf"(?:[\w-]+(?:\.[\w-]+)+|localhost|\[[0-9a-f:.%]+\])(?:{_COLON}\d*)?", _I)
_BROKEN = Pattern(  # a blank in the password, or a line's end
    r"[^\s\[\]/?#@:]+:(?:[^\n@]*[^\s@]|[^\s@]{0,64}[\r\n]{1,2}[^\s@]{1,64})@(?=[\w\[])"
)
# user:password@host, without a scheme. OpenCV begins its log lines with `[ WARN:0@0.162]`: a thread, and seconds.
_BARE = Pattern(
    r"(?<![\w.%+@:-])(?!(?:FATAL|ERROR|WARN|INFO|DEBUG|VERB\w*):\d+@\d+\.\d+\])([\w.%+-]{1,64}:[^\s/@\"']{1,128})@(?=[\w\[])"
)

_NAME = r"((?:[\w.-]|%(?!(?:25)*(?:26|3d|3f))[0-9a-f]{2}){1,64})(?:\[\w{0,32}\])?"
_KEY = Pattern(rf"(?:([?&;#]|%(?:25)*(?:26|3f))|(?<![\w.%-])){_NAME}(?:=|%(?:25)*3d)", _I)
_VALUE = Pattern(
    r"""\*\*\*(?=[\s&"',;)\]}]|$)|"[^"\n]*"|'[^'\n]*'"""
    r"""|(?!…|%(?:25)*26)[^\s&"',)\]}](?:(?!%(?:25)*26)[^\s&"']|["'](?![\s,:;)\]}]|$))*""",
    _I,
)
_TELLING = Pattern(
    r"passw|passphrase|passcode|pwd|secret|token|credential|(?:api|access|auth)[_-]?key"
    r"|(?<![a-z])(?:user|login)[_-]?(?:pass?|pw)(?![a-z])",
    _I,
)
_TELLING_IN_A_QUERY = Pattern(
    r"auth(?!or)|signature|session|jwt|hmac|md5|hdn[te]|ticket|cookie|verif\w*code|(?:pass|psw|pswd|pw)(?![a-z])"
    r"|(?<![a-z])(?:key|sig|sid|pin|otp|pas|api|basic|creds?|code|hash)(?![a-z])"
    r"|(?:stream|user|private)[_-]?key",
    _I,
)
_LETTER = Pattern(r"((?:[?&]|%26|%3f)(?:u|usr|user|username|login)=[^&\s]{0,64}&(?:[^&\s]{0,64}&){0,16}?p=)[^&\s\"']+", _I)
_STREAM_ID = Pattern(
    r"(streamid=(?:publish|read)(?::|%3a)[^:&\s]+(?::|%3a))[^&\s\"']+|(streamid=#!::(?:[^&\s]*,)?s=)[^,&\s\"']+", _I
)
_HEADER = Pattern(
    r"((?:authorization[\"']?\s*[:=]|(?:cookie|(?<![\w-])x-(?:[\w-]{0,40}-)?(?:key|token|auth|secret|password))[\"']?\s{0,4}:)\s{0,4}[\"']?)"
    r"(?![^\r\n\"']{0,200}…)(?:[^\r\n\"']|(?<==)\"[^\"\r\n]*\"?|(?<==)'[^'\r\n]*'?)+",
    _I,
)
# What texts, YAML, JSON and Python say of one: `password: …`, `{"token": "…"}`, `password = …`.
_SAID = Pattern(
    r"((?:password|passwd|passphrase|passcode|pwd|secret|token|credentials?|(?:api|access|auth|private|secret)[_-]?key"
    r"|(?<=[\"'])(?:pass|pw|psw))(?:\\*[\"'])?[ \t]{0,4}[:=][ \t]{0,4}b?)"
    r"(\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|\\+[\"'][^\"'\\\n]+|[^\s\"',;)\]}\\][^\s,;)\]}]*)(?=(\s*[\w('\"|]))?",
    _I,
)
_NO_SECRET = Pattern(
    r"\*\*\*|…|//|\W{0,2}$|(?:str|int|float|bytes|bool|object|any|none|null|true|false)(?!\w)(?![^\s|,;)\]}])", _I
)
_CALL = Pattern(r"[A-Za-z_][\w.]*[(\[]")
_WORD = Pattern(r"[A-Za-z]+[.:!?]?")
_OPTION = Pattern(
    r"((?<!\S)--(?:[\w-]{0,40}-)?(?:password|passwd|passphrase|pwd|pass|pw|secret|token|api-?key)[ \t]+)"
    r"(?![-=…]|\*\*\*|[A-Z_]+(?![^\s;,.)])|[a-z]{1,4}(?!\S))(?:\"[^\"\n]*\"|'[^'\n]*'|\S+)"
    r"|((?<!\S)(?:-[uU]|--(?:proxy-)?user)[ \t=]+[\"']?(?!\d+:\d+(?!\S))[^\s:\"']{1,64}:)[^\s\"']+"
    r"|((?<!\S)pass=)(?!\d(?![^\s,;)]))[^\s\"']+"  # librtmp's; a codec's is the number of a run
)

_PATHS = (
    Pattern(r"(rtsp[sx]?://[^/\s]+:744[17]/)[\w-]+", _I),  # UniFi Protect
    Pattern(r"(/sdm_live_stream/)[^/?\s\"']+", _I),  # Nest
    Pattern(r"(rtmps?://[^/\s]*(?:youtube|twitch|facebook|live-video|restream|vimeo)[^/\s]*(?:/[^/\s]+)*/)[^/?\s\"']+", _I),
    Pattern(r"(/bot\d+:)[\w-]+", _I),  # Telegram
    Pattern(r"(/(?:token|apikey|password|pwd|secret)/)[^/?#\s\"']+", _I),
    Pattern(r"([?&;](?:user|usr|username|login|account)=[^:&\s]{0,64}(?::|%3a))[^&\s\"']+", _I),  # …=user:password
    Pattern(r"(rtsps?://[^/\s]+/(?:[^/\s]+/)*[\w.-]+:)[^/\s\"']+(?=/)", _I),  # …/0/user:password/main
)
_JSON_WEB_TOKEN = Pattern(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?")
_SEGMENT = Pattern(r"(?<=/)[\w-]{16,}(?=[/?#\s\"']|$)")
_HEXADECIMAL = Pattern(r"(?=[\da-f]*[a-f])(?=[\da-f]*\d)[\da-f]+", _I)


def masked(text: str) -> str:
    """The text, with `***` in place of the secrets in it.

    Secrets are what stands before the host of a URL, whatever characters it has; the values of parameters whose names tell of a
    secret (`password`, `pwd`, `token`, `auth` and so on); parts of a URL's path that look random, or that are a key by the
    address of a known camera or service; headers such as `Authorization` and `Cookie`; and what follows `password:`,
    `"token":`, `--password` and the like. URLs may stand within URLs, and within any text. A text that was masked stays as it
    is. The time is in proportion to the text's length; any thread.

    >>> masked("can't open rtsp://admin:secret@10.0.0.5/live")
    "can't open rtsp://admin:***@10.0.0.5/live"
    >>> masked("http://10.0.0.5/video.cgi?user=admin&pwd=secret&channel=1")
    'http://10.0.0.5/video.cgi?user=admin&pwd=***&channel=1'
    """
    if not any(sign in text for sign in (":", "=", "@", "%", "eyJ", " -")) and not text.startswith("-"):
        return text
    if "://" in text or "%" in text:
        text = _without_userinfo(text)
    if "@" in text:
        text = _BARE.sub(lambda found: f"{_user(found[1])}{MASK}@", text)
    if "://" in text:
        text = _SEGMENT.sub(_masked_segment, text)
        for pattern in _PATHS:
            text = pattern.sub(rf"\g<1>{MASK}", text)
    text = _JSON_WEB_TOKEN.sub(MASK, text)
    text = _STREAM_ID.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    text = _LETTER.sub(rf"\g<1>{MASK}", text)
    text = _HEADER.sub(rf"\g<1>{MASK}", _without_values(text))
    text = _SAID.sub(_masked_saying, text)
    return _OPTION.sub(lambda found: f"{found[1] or found[2] or found[3]}{MASK}", text)


def without_torn_word(text: str, head: int, tail: int) -> tuple[str, str]:
    """The text before `head`, and that from `tail` on, without the words that a cut there tears.

    Only words that may be URLs or parameters are left out, since half a secret can't be told from any other word.
    """
    torn = _LAST_WORD.search(text, max(0, head - LONGEST_WORD), head)
    beginning = text[: torn.start()] if torn and _MAY_HOLD_A_SECRET.search(torn[0]) else text[:head]
    torn = _LAST_WORD.search(text, max(0, tail - LONGEST_WORD), tail)
    end = text[tail:]
    if torn and _MAY_HOLD_A_SECRET.search(torn[0]):
        end = _FIRST_WORD.sub("", end, count=1)
    return beginning, end


def needs_escapes(url: str) -> bool:
    """Whether the user or password in a URL has characters that end them there: they must be written as %23 and the like.

    >>> needs_escapes("rtsp://admin:pa#ss@10.0.0.5/live"), needs_escapes("rtsp://admin:pa%23ss@10.0.0.5/live")
    (True, False)
    """
    _, _, rest = url.partition("://")
    return userinfo_end(rest) > len(re.split(r"[/?#\s]", rest, maxsplit=1)[0])


def _without_userinfo(text: str) -> str:
    parts = _SEPARATOR.split(text)
    for place in range(2, len(parts), 2):  # what follows a separator
        part = parts[place]
        end = userinfo_end(part)
        if end >= 0:
            parts[place] = _user(part[:end]) + MASK + part[end:]
    return "".join(parts)


def userinfo_end(part: str) -> int:
    """Where the `@` stands that ends the user and password, in what follows `://`; -1 when there are none."""
    run = _RUN.match(part)
    assert run is not None
    found = _LAST_AT.match(run[0])
    if found is None:
        broken = None if _HOST.match(part) else _BROKEN.match(part)
        return broken.end() - 1 if broken else -1
    authority = _authority(run[0])
    if found.start(1) < len(authority):
        return found.start(1)
    within = _LAST_AT.match(authority)
    host = authority[within.end(1) :] if within else authority
    between = run[0][len(authority) : found.start(1)]
    if _HOST.fullmatch(host) and (between.endswith("/") or re.search(r"\?.*=", between)):
        return within.start(1) if within else -1  # http://host/@somebody, or ?mail=somebody@…
    return found.start(1)


def _authority(part: str) -> str:
    found = _AUTHORITY.match(part)
    assert found is not None
    return found[0]


def _user(userinfo: str) -> str:
    found = _USER.match(userinfo)
    return found[1] if found else ""


def _without_values(text: str) -> str:
    parts: list[str] = []
    done = 0
    for key in _KEY.finditer(text):
        before, name = key.groups()
        plain = unquote(unquote(name))
        telling = _TELLING.search(plain) or (before and _TELLING_IN_A_QUERY.search(plain))
        value = _VALUE.match(text, key.end()) if telling and key.start() >= done else None
        if value:
            parts += (text[done : key.end()], MASK)
            done = value.end()
    return "".join((*parts, text[done:]))


def _masked_saying(found: re.Match[str]) -> str:
    """Not where it is the next word of a sentence, `token: Input should be a text`, or code, `token = read()`."""
    before, value, more = found.groups()
    is_word = more and more[0].isspace() and _WORD.fullmatch(value)
    if is_word or _NO_SECRET.match(value) or (before.endswith("= ") and _CALL.match(value)):
        return found[0]
    opening = re.match(r"\\*[\"']?", value)
    quote = opening[0] if opening else ""
    return f"{before}{quote}{MASK}{quote if value.endswith(quote) else ''}"


def _masked_segment(found: re.Match[str]) -> str:
    letters = found[0].replace("-", "").replace("_", "")
    return MASK if _looks_random(letters) else found[0]


def _looks_random(letters: str) -> bool:
    """Whether it is no word, but a key: hexadecimal, or upper case, lower case and digits in turns."""
    if len(letters) < 16:
        return False
    if _HEXADECIMAL.fullmatch(letters):
        return len(letters) >= 20
    kinds = ["d" if letter.isdigit() else "u" if letter.isupper() else "l" for letter in letters]
    turns = sum(one != other for one, other in pairwise(kinds))
    return len(set(kinds)) == 3 and turns >= 0.35 * len(letters)
