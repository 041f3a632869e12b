"""What a colleague without edgevit puts on the device: the artefact, a program of one file, a self-test, a card.

`program` is what runs on the device, `one_file` puts it together with a backend's runtime, `golden` the self-test's
pictures, `card` the README, `make` the whole folder.
"""
