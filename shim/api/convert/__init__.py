"""Messages of the CRI to values of the model (decode) and back (encode), one module per noun.

What a message can say and the model cannot (an enum value that nobody knows, a negative size, a NUL in a
path) is refused here, with the name of the field.
"""
