"""The shop's one page: the order form and the list of orders with their messages."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .forms import OrderForm
from .overview import latest_orders
from .services import place_order


@never_cache
def index(request: HttpRequest) -> HttpResponse:
    """Show the page, or place the submitted order."""
    form = OrderForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        place_order(**form.cleaned_data)
        return redirect("orders:index")
    status = 422 if form.is_bound else 200
    context = {"form": form, "rows": latest_orders()}
    return render(request, "orders/index.html", context, status=status)


@never_cache
@require_safe
def order_list(request: HttpRequest) -> HttpResponse:
    """Only the list, so that the page can refresh it and keep the form."""
    return render(request, "orders/_list.html", {"rows": latest_orders()})


@never_cache
@require_safe
def order_list_json(request: HttpRequest) -> JsonResponse:
    """The list as JSON."""
    return JsonResponse({"orders": [row.as_json() for row in latest_orders()]})
