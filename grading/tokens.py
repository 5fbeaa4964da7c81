"""A list of tokens that is read from left to right."""

from grading.algebra import CannotTell


class TokenReader:
    """The tokens and the position of the next one."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.position = tokens, 0

    @property
    def next_token(self) -> str:
        """The next token; "" at the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def token_after(self, n: int = 1) -> str:
        return self.tokens[self.position + n] if self.position + n < len(self.tokens) else ""

    def peek(self, *wanted) -> bool:
        return self.next_token in wanted

    def accept(self, *wanted) -> str:
        """Takes the next token if it is one of `wanted`, or any token without `wanted`; returns ""
        where it takes none."""
        token = self.next_token
        if token == "" or wanted and token not in wanted:
            return ""
        self.position += 1
        return token

    def expect(self, *wanted) -> str:
        """Like accept(), but raises CannotTell where it takes no token."""
        token = self.accept(*wanted)
        if not token:
            raise CannotTell(f"{' or '.join(wanted) or 'more'} was expected")
        return token

    def count(self, token: str) -> int:
        """Takes all tokens of one kind that come next; returns their number."""
        n = 0
        while self.accept(token):
            n += 1
        return n
