"""Of a checkout called dme: a script beside it that says `import dme` gets the package within."""

import importlib.util
import sys
from pathlib import Path

if __name__ == "dme":
    package = Path(__file__).with_name("dme")
    spec = importlib.util.spec_from_file_location(
        __name__, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
