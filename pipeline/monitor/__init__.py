"""The monitor of a training run: which checkpoint to ship quantized, whether it got worse, when to stop.

``observing.Monitor`` measures a model in memory and ``judging.Judge`` turns the losses of the run so far into a
``verdicts.Verdict``; ``trainer_callback.Int4Callback`` does both inside the Trainer of transformers, and ``replay``
gives the verdicts on an audited run. It needs neither Ray nor a folder.
"""
