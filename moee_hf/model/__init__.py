"""The model. Every other file of this folder is copied, verbatim and flat, into each repository that is saved.

Hence the rule: a file here imports the standard library, torch, transformers and what transformers installs, and its
neighbours, by `from ... import ...` of `.name`; never the package around it, never another folder of it. The one
exception is `sentence_moee`, which sentence-transformers alone reads.

To read in this order; but for types, no file imports one that stands below it:

    functional_moee                         the method: pool, route, standardize, combine, compare
    prompts_moee, hub_moee                  texts inside a prompt; files and commits from the Hub
    configuration_deepseek, validation_moee, configuration_moee      every choice that changes a vector
    statistics_moee, batching_moee          statistics of a corpus; batches of tokens
    modeling_deepseek, backbone_moee        the routers and layers of any architecture, and the exceptions
    prefix_moee, capture_moee, experts_moee                 what one forward pass shares, reads and leaves out
    inference_moee, stream_moee             the story of a pass; windows of any number of texts
    gguf_moee, weights_moee, repository_moee, pretrained_moee       loading and saving
    modeling_moee                           MoEEModel
    pipeline_moee, sentence_moee, handler   doors for pipelines, sentence-transformers and endpoints
"""
