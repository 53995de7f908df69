"""Print each benchmark's ratios below the timings: machines are noisy, ratios measured in one run are not."""


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    for bench in getattr(session, "benchmarks", []):
        if bench.extra_info:
            facts = ", ".join(f"{name}: {value}" for name, value in bench.extra_info.items())
            terminalreporter.write_line(f"{bench.name}: {facts}")
