"""The vendors' converters: private environments, and one worker process for each call into them."""
