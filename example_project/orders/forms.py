"""The order form."""

from typing import Any, ClassVar

from django import forms

from .catalogue import PRICES, Item
from .models import Order


class OrderForm(forms.ModelForm):
    class Meta:
        model = Order
        fields = ("customer", "item", "quantity")
        widgets: ClassVar = {"customer": forms.EmailInput(attrs={"placeholder": "you@example.com"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["item"].choices = [(item.value, f"{item.label}, {PRICES[item]}") for item in Item]
