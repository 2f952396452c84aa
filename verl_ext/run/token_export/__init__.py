"""What a training step did to each token, on disk: written by the workers, read by the viewer, replay and calibration.

`evaluation` works out what the loss made of each token, `part` gathers rows and writes them in the format of
`verl_ext.batch_file`, `settings` is the section `verl_ext.export` of a run. verl is bound in
`verl_ext.bridge.token_export`.
"""
