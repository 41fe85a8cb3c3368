"""`python -m appliance.cli.main`: the command line without its installed script."""

from appliance.cli import main

if __name__ == "__main__":
    main()
