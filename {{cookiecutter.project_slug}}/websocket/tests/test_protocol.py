from typing import Any

from django.test import SimpleTestCase, override_settings

from websocket.connection import Headers, QueryParams
from websocket.protocol import InvalidMessage, size_of


class HeadersTests(SimpleTestCase):
    def make(self, *headers):
        return Headers({"headers": headers})

    def test_a_name_is_found_in_any_case(self):
        headers = self.make((b"X-Token", b"abc"))
        self.assertEqual(headers["x-token"], "abc")
        self.assertEqual(headers["X-TOKEN"], "abc")
        self.assertEqual(headers.get("X-Token"), "abc")
        self.assertIn("X-tOKEN", headers)

    def test_a_name_that_is_not_there(self):
        headers = self.make()
        self.assertNotIn("x-token", headers)
        self.assertIsNone(headers.get("x-token"))
        self.assertEqual(headers.get("x-token", "none"), "none")
        with self.assertRaises(KeyError):
            headers["x-token"]

    def test_names_are_listed_in_lower_case(self):
        headers = self.make((b"Host", b"example.com"), (b"Origin", b"http://example.com"))
        self.assertEqual(list(headers), ["host", "origin"])
        self.assertEqual(list(headers.keys()), ["host", "origin"])
        self.assertEqual(len(headers), 2)

    def test_repeated_headers_are_joined(self):
        headers = self.make(
            (b"Via", b"a"), (b"via", b"b"), (b"cookie", b"c=1"), (b"cookie", b"d=2")
        )
        self.assertEqual(headers["via"], "a, b")
        self.assertEqual(headers["cookie"], "c=1; d=2")

    def test_as_dict_is_a_copy(self):
        headers = self.make((b"Host", b"example.com"))
        headers.as_dict()["host"] = "other.example.com"
        self.assertEqual(headers.as_dict(), {"host": "example.com"})

    def test_a_scope_need_not_have_headers(self):
        self.assertEqual(Headers({}).as_dict(), {})
        self.assertEqual(Headers({"headers": None}).as_dict(), {})


class ErrorTests(SimpleTestCase):
    def test_an_invalid_message_has_a_code_that_can_be_sent(self):
        self.assertEqual(InvalidMessage("Too long.").code, 1003)
        self.assertEqual(InvalidMessage("Too long.", 4000).code, 4000)
        codes: list[Any] = [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, "4000", None]
        for code in codes:
            with (
                self.subTest(code=code),
                self.assertRaisesMessage(ValueError, f"{code!r} is not a close code that can be"),
            ):
                InvalidMessage("Too long.", code)


class QueryParamsTests(SimpleTestCase):
    def test_the_last_of_repeated_parameters_counts(self):
        params = QueryParams("x=1&x=2&y=3")
        self.assertEqual(params["x"], "2")
        self.assertEqual(params.get("x"), "2")
        self.assertEqual(params.getlist("x"), ["1", "2"])

    def test_a_name_that_is_not_there(self):
        params = QueryParams("x=1")
        self.assertNotIn("y", params)
        self.assertIsNone(params.get("y"))
        self.assertEqual(params.get("y", "none"), "none")
        self.assertEqual(params.getlist("y"), [])
        with self.assertRaises(KeyError):
            params["y"]

    def test_names_are_listed(self):
        params = QueryParams("x=1&y=2&x=3")
        self.assertEqual(list(params), ["x", "y"])
        self.assertEqual(list(params.keys()), ["x", "y"])
        self.assertIn("x", params)

    def test_values_are_decoded(self):
        self.assertEqual(QueryParams("q=caf%C3%A9+au+lait")["q"], "café au lait")

    def test_a_value_may_be_empty(self):
        self.assertEqual(QueryParams("x=&y")["x"], "")
        self.assertEqual(QueryParams("x=&y")["y"], "")


class SizeTests(SimpleTestCase):
    def test_the_size_of_a_message_is_its_bytes(self):
        self.assertEqual(size_of({"text": "abc"}), 3)
        self.assertEqual(size_of({"bytes": b"abcd", "text": None}), 4)
        self.assertEqual(size_of({"text": None, "bytes": None}), 0)
        self.assertEqual(size_of({"type": "websocket.disconnect"}), 0)

    @override_settings(WEBSOCKET_MAX_MESSAGE_SIZE=10)
    def test_text_counts_as_its_utf_8_where_that_decides(self):
        self.assertEqual(size_of({"text": "éééééé"}), 12)
        self.assertEqual(size_of({"text": "\ud800" * 4}), 12)
