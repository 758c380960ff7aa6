"""The image's health check: does the daemon of this container live, at whatever port it is?

What it prints stands in the container's health log.
"""

import sys
from http.client import HTTPException

from exai.cli.address_file import find_address
from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.daemon_door import Door, NoDoor
from exai.cli.daemon_http import http_connection


def main() -> int:
    """Ask `/livez`; 0 is healthy, 1 is not."""
    try:
        address = find_address(load_config(CommandLine(), for_client=True).config.state_dir)
        if address is None:
            print("no daemon has said that it is ready")
            return 1
        connection = http_connection(Door(address.http_url, None, "", None, address.certificate))
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (ConfigProblems, NoDoor, HTTPException, OSError) as fault:
        print(f"/livez does not answer: {fault}")
        return 1
    print(f"/livez answers with {status}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
