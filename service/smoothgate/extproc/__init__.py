"""The filter for gateways: Envoy's External Processing protocol around `smoothgate.http.filter_app`."""
