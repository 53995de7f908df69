"""The processes that a test has started, and those that these have started."""

import subprocess


def below(pid, words):
    """Return the processes below one of ours whose command has these words; nobody else's."""
    lines = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    table = {int(line.split()[0]): (int(line.split()[1]), line.split(None, 2)[2]) for line in lines[1:]}

    def ours(one):
        while one in table and one != pid:
            one = table[one][0]
        return one == pid

    return [one for one, (_, command) in table.items() if words in command and one != pid and ours(one)]
