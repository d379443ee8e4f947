"""Lets a test wait until Ctrl-C ends a program's pipe: before that it raises KeyboardInterrupt wherever the program is."""

TELLS_OF_JOIN = """
import signal, threading, time

def tell():
    while signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # join(), or the program's end, has its own
        time.sleep(0.001)
    print("joins", flush=True)

threading.Thread(target=tell, daemon=True).start()
"""
