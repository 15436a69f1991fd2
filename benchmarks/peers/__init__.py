"""The same model in other servers, each as its own documentation begins; they run in an environment
of their own.
"""
