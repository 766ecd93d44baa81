"""URLs of the shop's page."""

from django.urls import path

from . import views

app_name = "orders"
urlpatterns = [
    path("", views.index, name="index"),
    path("orders/", views.order_list, name="list"),
    path("orders.json", views.order_list_json, name="json"),
]
