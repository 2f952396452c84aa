"""Package list; everything else is in pyproject.toml.

pyproject.toml can either search for packages or list them, and this project needs both: the packages under
verl_ext/ are found, and the top-level folders configs/ and recipes/ are added to them as verl_ext.configs and
verl_ext.recipes.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["verl_ext", "verl_ext.*"]), "verl_ext.configs", "verl_ext.recipes"],
    package_dir={"verl_ext.configs": "configs", "verl_ext.recipes": "recipes"},
    package_data={
        "verl_ext": ["py.typed", "catalogue.json"],
        "verl_ext.configs": ["*.yaml", "**/*.yaml"],
        "verl_ext.recipes": ["**/*.yaml", "**/*.md"],
        "verl_ext.demo": ["*.html.j2"],
        "verl_ext.project": ["template/*", "template/**/*"],
        "verl_ext.run_report": ["*.j2"],
        "verl_ext.sizing.architectures": ["*.json"],
        "verl_ext.study": ["*.j2"],
        "verl_ext.tables": ["*.j2"],
        "verl_ext.viewer": ["template/*"],
    },
)
