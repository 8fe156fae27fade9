"""The model. Every other file of this folder is copied, verbatim and flat, into each repository that is saved.

Hence the rule: a file here imports the standard library, torch, transformers and what transformers installs, and its
neighbours, by `from ... import ...` of `.name`; never the package around it, never another folder of it. The one
exception is `sentence_moee`, which sentence-transformers alone reads.

To read in this order; but for types, no file imports one that stands below it:

    choices_moee                            the names of each choice, without torch
    transfer_moee                           tensors to a device and back, without waiting for it
    threads_moee                            batches side by side on a processor
    products_moee                           half precision on a processor without such arithmetic
    functional_moee                         the method: pool, route, standardize, weigh, combine, compare
    prompts_moee, hub_moee, digests_moee    texts inside a prompt; files and commits from the Hub; digests of files
    tokenizer_moee                          the tokenizer beside a model's weights
    configuration_deepseek, configuration_backbone_moee     configurations of backbones
    arguments_moee, configuration_reading_moee      arguments of loading; the files that a configuration is in
    compression_moee                        smaller embeddings: fewer dimensions, fewer bits
    validation_moee, fitted_moee            values that a choice takes; what a model was fitted to
    configuration_moee                      every choice that changes a vector
    agreement_moee, statistics_moee         which layers speak; statistics of a corpus
    inputs_moee, batching_moee              what forward is given; batches of tokens
    modeling_deepseek, backbone_moee        the routers and layers of any architecture, and the exceptions
    kernels_moee                            the gate of experts as a kernel of GPUs, where Triton is installed
    experts_nf4_moee                        experts in 4 bits, while they are loaded
    prefix_moee, layout_moee                what texts share; where their tokens lie
    capture_moee, hooks_moee, experts_moee  what one forward pass reads, and leaves out
    checkpointing_moee                      the same pass with gradient checkpointing
    inference_moee, stream_moee             the story of a pass; windows of any number of texts
    workers_moee, devices_moee              processes on several devices; texts shared out among them
    calibration_moee                        a model that is fitted to a corpus
    adapters_moee                           adapters of PEFT, merged
    quantization_moee                       experts in 8 and 4 bits, by one name
    gguf_moee, weights_moee, saving_moee, repository_moee, pretrained_moee      loading and saving
    modeling_moee                           MoEEModel
    pipeline_moee, sentence_moee, handler   doors for pipelines, sentence-transformers and endpoints
"""
