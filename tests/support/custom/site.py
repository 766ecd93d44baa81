from django.contrib.admin import AdminSite


class OperationsSite(AdminSite):
    site_header = "Operations of the shop"

    def __init__(self) -> None:
        super().__init__(name="operations")
