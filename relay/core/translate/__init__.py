"""From one dialect to the other, as pure code: requests here and back, answers and streams the other way.

``decode`` a body, translate it, ``encode`` the result (``spelling``); a ``Translation`` says what did not make it.
"""
