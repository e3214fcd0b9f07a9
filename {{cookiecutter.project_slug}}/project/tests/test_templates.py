"""The pages that no view of the site's own renders."""

from django.http import Http404
from django.templatetags.static import static
from django.test import RequestFactory, SimpleTestCase
from django.views.defaults import page_not_found, server_error


class TemplateTests(SimpleTestCase):
    def test_a_missing_page_and_an_error_look_like_the_site(self):
        request = RequestFactory().get("/nowhere/")
        missing = page_not_found(request, Http404())
        self.assertContains(missing, "<h1>This page does not exist</h1>", 1, 404, html=True)
        failed = server_error(request)
        self.assertContains(failed, "<h1>Something went wrong here</h1>", 1, 500, html=True)
        for response in (missing, failed):
            self.assertIn("/websocket/site.css", response.content.decode())

    def test_the_admin_has_the_sites_icon(self):
        self.assertContains(self.client.get("/admin/login/"), static("users/favicon.svg"))
