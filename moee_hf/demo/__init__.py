"""The demonstration: texts compared, a corpus searched, routing shown, in a browser.

To read in this order: `answers` (what the model says), `shown` (as HTML), `blocks` (the page), `application` (a server
of it). `app.py` is the program of a Space.
"""

from .application import create_app
from .blocks import create_demo

__all__ = ["create_app", "create_demo"]
