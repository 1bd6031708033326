"""python -m deploy.checks [--crds FOLDER] [NAME…]: render overlays and components and say what is wrong with them.

Exit status 1 if anything is. Kinds that nothing describes are listed: put the CustomResourceDefinitions of their
operators into the folder, and they are checked too.
"""

import argparse
import sys
from pathlib import Path

import yaml

from deploy.checks import helm, references, schemas
from deploy.checks.render import COMPONENTS, DEPLOY, OVERLAYS, label, overlay, with_components


def main() -> int:
    """Check overlays, and the base with each component; returns the exit status."""
    parser = argparse.ArgumentParser(prog="deploy.checks", description="Check what deploy/ renders to.")
    parser.add_argument("--crds", type=Path, default=DEPLOY / "crds", help="folder with CustomResourceDefinitions")
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*OVERLAYS, *COMPONENTS])}; all by default")
    arguments = parser.parse_args()
    crds = schemas.load_crds(arguments.crds)
    secrets = yaml.safe_load((DEPLOY / "secrets.yaml").read_text())
    wrong = 0
    for name in arguments.names or [*OVERLAYS, *COMPONENTS]:
        documents = overlay(name) if name in OVERLAYS else with_components([name])
        found, unknown = [], set()
        for document in documents:
            try:
                found += [f"{label(document)}: {finding}" for finding in schemas.findings(document, crds)]
            except schemas.UnknownKindError as error:
                unknown.add(str(error))
        found += references.findings([*documents, *helm.pods()], secrets)
        sys.stdout.write(f"{name}: {len(documents)} documents, {len(found)} findings\n")
        sys.stdout.writelines(f"  {finding}\n" for finding in found)
        sys.stdout.writelines(f"  not validated, no definition: {kind}\n" for kind in sorted(unknown))
        wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
