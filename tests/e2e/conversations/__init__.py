"""One script, held by four SDKs with both providers.  Begin with ``script.py``."""

import pytest

pytest.register_assert_rewrite("tests.e2e.conversations.answers", "tests.e2e.conversations.checks")
