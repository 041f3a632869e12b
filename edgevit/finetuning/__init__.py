"""From a pretrained model and folders of pictures to a classifier of one's own.

`job` what is asked for, `pictures` what it learns from, `features` a frozen backbone run once, `loop` training,
`folder` what is left behind, `finetune` all of it in order.
"""
