"""The jobs API: submit, leave, come back."""
