from stgraph.cli.main import main

main()
