"""The main job on real servers: sample services that really fail, and the fabric that heals them.

Nothing here is imported by the product. The demo uses what a user uses, the shipped rules, the shipped
route and the public API, so that what it shows is what one gets; the end-to-end tests build on the same
stack.
"""
