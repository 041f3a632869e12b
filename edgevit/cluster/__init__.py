"""Tasks spread over processes of this machine or over many machines."""
