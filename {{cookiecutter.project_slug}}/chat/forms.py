"""The form that checks a message before it is stored."""

from django import forms

from chat.models import Message


class MessageForm(forms.ModelForm):
    class Meta:
        model = Message
        fields = ["key", "text"]

    def clean_text(self) -> str:
        # JSON can hold half of a surrogate pair; a database cannot.
        text: str = self.cleaned_data["text"]
        return text.encode(errors="replace").decode()
