import gc

from support import environment  # noqa: F401  it comes before everything that reads it


def pytest_configure(config):
    # a process that only hands tests out to others does not wait for torch
    if config.option.dist == "no" or config.option.collectonly:
        config.pluginmanager.import_plugin("support.fixtures")


def pytest_collection_modifyitems(items):
    # long ones first: a process that has nothing left takes over what waits in the other, but not what runs there
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    # what was imported stays; the garbage collector need not look through it again and again
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    passed = [report.nodeid for report in terminalreporter.getreports("passed")]
    agree = sum("::test_hidden_states_and_routing_weights[" in test for test in passed)
    refused = sum("::test_refused_by_name[" in test for test in passed)
    if agree or refused:
        terminalreporter.write_line(
            f"{agree} architectures agree with their own modules, {refused} are refused by name"
        )
