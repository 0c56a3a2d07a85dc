"""EndpointPickerConfig: read, validated, and with every default put in."""
