from django.contrib import admin
from django.urls import path

urlpatterns = [path("operations/", admin.site.urls)]
