"""The monitor of a training run: which checkpoint to ship quantized so far, whether it got worse, when to stop.

``observing.Monitor`` measures a model in memory and ``judging.Judge`` turns the losses of the run so far into a
``verdicts.Verdict``; ``trainer_callback.Int4Callback`` does both inside the Trainer of transformers, and ``replay``
gives the verdicts on a run that was audited. No Ray, and no folder is needed.
"""
